"""What training reads: the order of blocks, and the rows packed from them."""
