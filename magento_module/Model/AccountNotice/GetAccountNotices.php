<?php

declare(strict_types=1);

namespace Tocsin\BreachNotification\Model\AccountNotice;

use Magento\Framework\App\ResourceConnection;
use Tocsin\BreachNotification\Api\GetAccountNoticesInterface;

/**
 * Reads the notices that the bridge has written.
 */
class GetAccountNotices implements GetAccountNoticesInterface
{
    /**
     * @param ResourceConnection $resource
     */
    public function __construct(private readonly ResourceConnection $resource)
    {
    }

    /**
     * @inheritDoc
     */
    public function execute(int $customerId): array
    {
        $table = $this->resource->getTableName('tocsin_account_notice');
        // Texts as bytes: Magento's connections say SET NAMES utf8, and characters of four bytes would become "?".
        [$title, $body] = array_map(
            static fn (string $column): string => "CAST(CONVERT($column USING utf8mb4) AS BINARY) AS $column",
            ['title', 'body']
        );
        $rows = $this->resource->getConnection()->fetchAll(
            "SELECT notice_id, $title, $body, locale, created_at, read_at FROM $table"
            . ' WHERE customer_id = ? AND withdrawn_at IS NULL ORDER BY created_at DESC, id DESC',
            [$customerId]
        );
        $notices = array_map(
            static fn (array $row): AccountNotice => new AccountNotice(
                (string)$row['notice_id'],
                (string)$row['title'],
                (string)$row['body'],
                (string)$row['locale'],
                (string)$row['created_at'],
                $row['read_at']
            ),
            $rows
        );
        // Stable: within each of the two the newest stays first.
        usort(
            $notices,
            static fn (AccountNotice $one, AccountNotice $other): int
                => ($one->getReadAt() !== null) <=> ($other->getReadAt() !== null)
        );
        return $notices;
    }
}
