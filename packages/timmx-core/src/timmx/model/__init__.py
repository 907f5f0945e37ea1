"""From a name, a folder, a checkpoint or a module to a prepared model."""
