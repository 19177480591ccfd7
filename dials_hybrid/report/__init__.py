"""What a person reads: tables for terminal and log."""
