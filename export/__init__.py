"""Offline: reference modules, weights, and the export of each graph to ONNX. Needs torch."""
