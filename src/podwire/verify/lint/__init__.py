"""What is wrong with manifests: one small file a topic, one rule an id. The engine only collects."""
