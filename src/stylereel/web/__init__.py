"""The page: everything the commands do, in a browser. Its forms are made from the commands' signatures."""
