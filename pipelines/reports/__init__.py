"""What `raygan report` shows of a sweep: pictures, and one HTML page that holds them."""
