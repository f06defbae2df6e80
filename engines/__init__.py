"""The frozen model as parts, the picture and the bundle: what training and export share."""
