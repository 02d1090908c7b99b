<?php

declare(strict_types=1);

namespace Tocsin\BreachNotification\Model;

use Magento\Framework\Exception\InputException;
use Magento\Framework\Phrase;
use Tocsin\BreachNotification\Api\Data\ProvenancePageInterface;
use Tocsin\BreachNotification\Api\Data\ProvenancePageInterfaceFactory;
use Tocsin\BreachNotification\Model\ResourceModel\ProvenanceTable;

/**
 * Reads a page of the records of one customer or order.
 */
class ReadPage
{
    private const LARGEST_PAGE = 1000;

    private ProvenanceTable $table;
    private MakeRecord $makeRecord;
    private ProvenancePageInterfaceFactory $pageFactory;

    public function __construct(
        ProvenanceTable $table,
        MakeRecord $makeRecord,
        ProvenancePageInterfaceFactory $pageFactory
    ) {
        $this->table = $table;
        $this->makeRecord = $makeRecord;
        $this->pageFactory = $pageFactory;
    }

    /**
     * @param string $column customer_id or order_id
     * @throws InputException
     */
    public function execute(string $column, int $id, int $pageSize, int $currentPage): ProvenancePageInterface
    {
        if ($pageSize < 1 || $pageSize > self::LARGEST_PAGE) {
            throw new InputException(new Phrase((string)__('"pageSize" is %1; it must be 1 to %2.', $pageSize, self::LARGEST_PAGE)));
        }
        if ($currentPage < 1) {
            throw new InputException(new Phrase((string)__('"currentPage" is %1; pages are counted from 1.', $currentPage)));
        }
        return $this->pageFactory->create()
            ->setItems(array_map([$this->makeRecord, 'execute'], $this->table->page($column, $id, $pageSize, $currentPage)))
            ->setTotalCount($this->table->countOf($column, $id));
    }
}
