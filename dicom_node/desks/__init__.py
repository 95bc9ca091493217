"""What people and programs ask of the node: each desk writes down what was asked before it answers, and says who may.

A desk knows the record and hands work to the road; it knows neither HTTP nor the command line, which stand on it.
"""
