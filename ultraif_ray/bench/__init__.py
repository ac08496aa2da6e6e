"""What the system costs: each module is a command that measures two ways side by side and prints their ratio."""
