"""Record keys, dtypes, sizes and bounds of all messages.

Every `unpack_` function raises only `WireError`, whatever the peer sent, and checks sizes before values.
"""
