"""The words: what there is, independent of any database and bus.

errors        sorted by what their reader can do
stamp         moments to the millisecond
topology      the tree of nodes
network       nodes.yaml, once it has been checked
tables        what a database says of its tables
package       what travels; xsd reads and writes it, merging puts what is new into an XSD that is there
structure     the package as one node's tables hold it; compilation makes it, fitting says what a column holds
kinds         what of it stands there in another form than in messages
graph         circles
"""
