"""What every namespace gets when it is born, and how it dies."""
