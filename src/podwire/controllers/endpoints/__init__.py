"""Who answers for a Service: EndpointSlices, the older Endpoints, and slices of hand-made Endpoints."""
