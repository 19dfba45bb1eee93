"""PostgreSQL (13 and newer), through psycopg.

connecting   connections, their settings, one transaction's round trips, errors in our words
the others   as in every dialect: see node.databases
"""
