"""What goes to the hub beside weights: cards, the shim for auto classes, the handler of Inference Endpoints."""
