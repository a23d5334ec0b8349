"""What a data set and a split contain."""
