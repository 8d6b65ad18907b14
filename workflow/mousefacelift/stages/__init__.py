"""One module per stage of the workflow, each of the name of its rule, section, test and folder; and the experiments."""
