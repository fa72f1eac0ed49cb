"""Put network policies under test: pytest fixtures that read like English.

    def test_only_the_frontend_reaches_the_backend(manifests):
        assert manifests.pod("frontend").reaches("backend:8080")
        assert not manifests.pod("intruder").reaches("backend:8080")

``manifests`` judges files, without a cluster; ``cluster`` brings a lab up and sends packets. See docs/testing.md.
Everything heavy is imported when a fixture is used: pytest starts no slower for having the plugin installed.
"""
