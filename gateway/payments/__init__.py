"""Payments as buyers and providers see them."""
