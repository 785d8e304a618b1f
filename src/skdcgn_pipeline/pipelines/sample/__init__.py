"""Draw samples from the teacher."""
