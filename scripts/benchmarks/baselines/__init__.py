"""The same jobs as a user of the same parts would write them: what every figure is set beside."""
