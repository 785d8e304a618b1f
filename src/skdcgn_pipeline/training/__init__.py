"""Training loops: one for the teacher, one for students, one for classifiers; and what they share."""
