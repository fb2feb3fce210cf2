"""The exercises of the notebooks: what is asked is in the notebook, what is right is here."""
