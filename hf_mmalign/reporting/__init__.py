"""Tables, plots and the model card."""
