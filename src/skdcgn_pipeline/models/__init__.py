"""Networks: the CGN teacher, the students, their discriminators and the digit classifier."""
