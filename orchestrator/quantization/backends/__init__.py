"""Runtimes that execute a quantized package; free of torch and Ray, so that serving stays small."""
