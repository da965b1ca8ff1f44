"""Elastic students: one set of weights that holds smaller models, trained together and cut out as ordinary ones."""
