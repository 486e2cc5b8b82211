"""What the command does at a terminal: what its commands share."""
