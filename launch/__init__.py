"""The commands, alone at the top, and what each is made of."""
