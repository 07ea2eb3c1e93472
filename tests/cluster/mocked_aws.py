"""moto's server, whose EC2 has no spot instances for clusters named for that.

A program: `python mocked_aws.py <port>`.
"""

import sys

#: At the end of the name of such a cluster.
WITHOUT_SPOT = "-without-spot"


def serve(port):
    """Answer at a port until the process ends."""
    # Here, since tests that need the name alone would wait two seconds for it.
    from moto import server
    from moto.ec2.exceptions import EC2ClientError
    from moto.ec2.models import EC2Backend

    run_instances = EC2Backend.run_instances

    def without_spot(self, *arguments, **settings):
        cluster = settings["tags"].get("instance", {}).get("ray-cluster-name", "")
        if cluster.endswith(WITHOUT_SPOT) and settings["instance_market_options"]:
            said = "There is no Spot capacity available that matches your request."
            raise EC2ClientError("InsufficientInstanceCapacity", said)
        return run_instances(self, *arguments, **settings)

    EC2Backend.run_instances = without_spot
    server.main(["-p", port])


if __name__ == "__main__":
    serve(sys.argv[1])
