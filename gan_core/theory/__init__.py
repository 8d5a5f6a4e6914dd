"""What theory says of the games that are trained here, computed with the same losses and penalties."""
