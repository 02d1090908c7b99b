<?php

declare(strict_types=1);

namespace Tocsin\BreachNotification\Model\Capture;

use Magento\Framework\App\ResourceConnection;

/**
 * What the database's triggers do, whatever Magento believes of them.
 */
class FindTriggers
{
    /**
     * @param ResourceConnection $resource
     */
    public function __construct(private readonly ResourceConnection $resource)
    {
    }

    /**
     * Return every trigger of the store's database by name.
     *
     * @return array<string, array{table: string, event: string, body: string}>
     */
    public function execute(): array
    {
        $connection = $this->resource->getConnection();
        $rows = $connection->fetchAll(
            'SELECT TRIGGER_NAME AS name, EVENT_OBJECT_TABLE AS watched, EVENT_MANIPULATION AS event,'
            . ' ACTION_STATEMENT AS body FROM information_schema.TRIGGERS WHERE TRIGGER_SCHEMA = DATABASE()'
        );
        $triggers = [];
        foreach ($rows as $row) {
            $triggers[$row['name']] = ['table' => $row['watched'], 'event' => $row['event'], 'body' => $row['body']];
        }
        return $triggers;
    }

    /**
     * Return those that write the changelog `$table` (with prefix).
     *
     * @param string $table
     * @return array<string, array{table: string, event: string, body: string}>
     */
    public function writing(string $table): array
    {
        return array_filter(
            $this->execute(),
            static fn (array $trigger): bool => str_contains($trigger['body'], "`$table`")
        );
    }
}
