"""Corpora: from raw videos to training data, in named steps whose results are kept by what they follow from.

| file | what |
|---|---|
| `settings` | what each system needs, and the parameters of every step |
| `sources` | folders, lists, patterns and shards to single videos |
| `steps` | the order of the steps, the key of each result, and the work on one video |
| `shots`, `looks`, `sounds`, `crops` | what the steps do |
| `store` | results of steps as files, named by their keys |
| `ledger` | one row a clip and step, and who works on which video |
| `engine` | processes of this machine, or Ray |
| `run` | everything together: take videos, work, write the data set |
| `pack`, `lerobot`, `report`, `check` | the data set: shards, LeRobot's layout, a page about it, and its checks |
"""
