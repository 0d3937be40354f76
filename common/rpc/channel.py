"""Settings of gRPC channels that both ends must agree on."""

# Prompts of 128 k tokens are below 1 MiB packed; anything larger is refused before it is parsed.
MAX_MESSAGE_BYTES = 4 * 2**20

SERVER_OPTIONS = [
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.so_reuseport", 0),  # a port in use must be an error, not a silent second server
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    # a client whose machine is gone sends nothing; without a ping its streams would stay for hours
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
]
CLIENT_OPTIONS = [
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # gRPC's own back-off grows to 2 minutes and would hide a worker that is back
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.enable_http_proxy", 0),  # workers are neighbours, whatever the environment says
]
