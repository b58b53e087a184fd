"""What proves who somebody is: tickets, login tokens, signatures, proof of work."""
