"""Services: from Service and EndpointSlice to the kernel."""
