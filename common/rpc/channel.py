"""Settings of gRPC channels that both ends must agree on."""

# Prompts of 128 k tokens are below 1 MiB packed; anything larger is refused before it is parsed.
MAX_MESSAGE_BYTES = 4 * 2**20

_SERVER_OPTIONS = [
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.so_reuseport", 0),  # a port in use must be an error, not a silent second server
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
]
# gRPC waits for a ping's answer as long as its ping time-out says, a minute if that is not set,
# whatever the keepalive's time-out is: so both are the same
SERVER_OPTIONS = [
    *_SERVER_OPTIONS,
    # a client whose machine is gone sends nothing; without a ping its streams would stay for hours
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.ping_timeout_ms", 20_000),
]
# several routers on one port, on purpose: the kernel gives each connection to one of them
SHARING_SERVER_OPTIONS = [
    *((key, value) for key, value in SERVER_OPTIONS if key != "grpc.so_reuseport"),
    ("grpc.so_reuseport", 1),
]
# a router sends little, so that a worker learns by these alone that its messages get nowhere
WORKER_SERVER_OPTIONS = [
    *_SERVER_OPTIONS,
    ("grpc.keepalive_time_ms", 5_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),
]
CLIENT_OPTIONS = [
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),  # 0: any number; the default stops after two
    # a connection of its own for each channel: a new one must not share a dead one
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),  # workers are neighbours, whatever the environment says
]
