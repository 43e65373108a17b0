"""Run one command on a server: HOST:PORT USER PASSWORD COMMAND ARGUMENT..."""

import json
import sys

from redis import Redis
from redis.exceptions import RedisError

address, user, password, *command = sys.argv[1:]
host, _, port = address.rpartition(":")
server = Redis(host=host, port=int(port), username=user, password=password, decode_responses=True)
try:
    print(json.dumps(server.execute_command(*command)))
except RedisError as error:
    sys.exit(str(error))
