"""The protected rules as an APP, for `onwhen graph` and `onwhen check`: they are made for a service, here for none.

Belongs here: that one name. What is run by `python -m examples.resilient_calls` is made in `stream`.
"""

from examples.resilient_calls.client import CustomerService
from examples.resilient_calls.rules import desk

__all__ = ["rules"]

rules = desk(CustomerService("http://127.0.0.1:1"), protected=True).rule_sets
