"""What fawad serves: each service is a subclass of a generated base and knows no dialect."""
