"""One training: optimizer, losses, epochs, and what is measured after each of them."""
