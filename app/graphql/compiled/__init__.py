"""Fast reads: a selection becomes one statement, and its rows go out untouched.

Most of what a GraphQL server does for a list is to complete value after value of rows that already are what the client
asked for. Here the selection below a root field is compiled once per document, and kept with it:

- `declare.py`  A feature says beside its type which fields are columns, functions of columns, or relations.
- `selection.py`  The selection becomes a plan: which columns of which tables, and how a row becomes a dict.
- `values.py`  What a plan makes of rows is Python code of its own, made from the selection.
- `statements.py`  The plan becomes SQL with the viewer's scope inside: to-one relations are joins, each nested
  connection or list is one more statement for all its parents. Account, time, cursors, page size and the values of
  filters are parameters.
- `reads.py`  What resolvers call: `connection` and `one` run the plan and give a `Ready` value; and `several`, which
  shows rows that are at hand as a root field selects them, such as the events of a subscription.
- `partly.py`  What has a resolver of its own is left to the executor, with all around it at hand.
- `executor.py`  The executor hands a `Ready` value through as it is, and executes what a `Partly` does not have.

Whatever else cannot be compiled raises `NotCompiled`, and the resolver goes the ordinary way over ORM rows and GraphQL
objects, which answers the same in every letter, errors included; `tests/api/test_compiled.py` holds the two together.
"""
