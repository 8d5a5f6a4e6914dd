"""What is searched: one file a space, each with a SPACE of dotted config keys and Ray Tune domains."""
