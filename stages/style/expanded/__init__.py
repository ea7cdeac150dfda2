"""The editor of real faces: attributes, classifier, training, stage."""
