"""Written rules, the dialogues they judge, and the loop that revises what they would reject."""
