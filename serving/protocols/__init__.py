"""Wire formats: each file only translates between one protocol and `serving.service`."""
