"""The heart: the flow of changes from one node's capture log to another node's register.

ports       what the flow needs of a database, of the bus and of the clock
sending     select -> review -> complete -> group -> split: T1
review        to which neighbours each item goes                               (pure)
rights        what a neighbour is to get untouched: rights that changed, owners that went somewhere new
closure       what references draw in with it                                  (pure)
grouping      what must be one message, and what must come after what          (pure)
streams       sharing groups out among parallel streams, packing messages      (pure)
turning       items between the node's own form and the wire's, where SQL cannot do it
kinds           its steps for composites, enumerations and predefined items
letters       messages as the bus takes them, made when it asks for them       (pure)
history       what a neighbour lacks of what was there already: when, and how far       (pure)
  manifest      which item went in which message, small enough to be kept     (pure)
delivery    publish, one neighbour beside the other, and T2
receiving   sessions in order, their messages in parallel, what has come
parts         messages too large for the bus, until all of them is here        (pure)
applying    one message in one transaction
hooks       what an installation overrides, as the flow asks for it
deferring   work that hooks have put off
parking     what cannot be applied waits here, and blocks nothing else
settling      new, repeat, successor or collision; who wins; other faults      (pure)
references    what an item's value refers to                                   (pure)
purging     tombstones that nobody needs any more
events      log lines
"""
