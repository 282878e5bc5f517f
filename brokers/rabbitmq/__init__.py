"""Queues in RabbitMQ: a durable queue for each subscription, a topic exchange for each module.

::

    put ─▶ publishing connection ─▶ exchange ─▶ queue ─▶ consuming connection ─▶ buffer ─▶ take, then ack
                  ▲ confirm, or an interruption                    │ closed, cancelled: an interruption

Two plain connections carry everything. They are looked after here, and nothing is made again behind our back:
a *robust* connection would bring queues back that somebody deleted. What a queue is bound to is an intent that
outlives connections: it is declared when there is a connection, and a queue that has vanished since is told to
its taker (`QueueGone`), which alone knows whether it is still wanted. A drop, too, is kept until it is done.

While RabbitMQ is out of reach nobody waits for it: a put is lost and admitted, since every queue of this process
is interrupted and its taker reads the log. Segments that were taken are acknowledged at once, so none stays
unacknowledged for long, is requeued on purpose, or counts against a delivery limit.
"""

from brokers.rabbitmq.broker import RabbitMqBroker, exchange_name, queue_name, remove
from brokers.rabbitmq.link import QueueType, RabbitMqOptions

__all__ = ["QueueType", "RabbitMqBroker", "RabbitMqOptions", "exchange_name", "queue_name", "remove"]
