"""The AWS sandbox: answers boto3 on loopback as SES v2, SNS, SQS and STS would, and shows every mail as its reader would
see it. It is what the demo and the tests send to instead of AWS.

For: the calls that our adapters make, their wire protocols, scripted fates of single recipients, SNS envelopes with a
signature that verifies. Not for: anybody else's calls (they are refused by name), load figures of AWS, or any network
but loopback. It checks no credentials, and its signing key is worth nothing outside it.

`server` is the way in. A request goes `http` -> `wire` (protocols and botocore's models) -> `ses`, `sns`, `sqs` or
`sts` -> `state`, which changes only by records that are in the journal first.
"""
