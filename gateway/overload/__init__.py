"""What keeps a process answering under more load than it can serve."""
