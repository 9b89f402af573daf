"""What a network is made of and what it looks at, without training it."""
