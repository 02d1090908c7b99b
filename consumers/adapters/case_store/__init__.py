"""The case store in SQL: SQLite on one machine, MariaDB or MySQL by URL. `tables` declares, `engine` opens and migrates,
one module a noun holds the statements. Contacts lie here only sealed, and only until their incident closes.
"""
