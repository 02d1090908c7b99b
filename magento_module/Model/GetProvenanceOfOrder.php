<?php

declare(strict_types=1);

namespace Tocsin\BreachNotification\Model;

use Magento\Framework\Exception\NoSuchEntityException;
use Magento\Framework\Phrase;
use Tocsin\BreachNotification\Api\Data\ProvenancePageInterface;
use Tocsin\BreachNotification\Api\GetProvenanceOfOrderInterface;
use Tocsin\BreachNotification\Model\ResourceModel\ProvenanceTable;

/**
 * @inheritDoc
 */
class GetProvenanceOfOrder implements GetProvenanceOfOrderInterface
{
    private ReadPage $readPage;
    private ProvenanceTable $table;

    public function __construct(ReadPage $readPage, ProvenanceTable $table)
    {
        $this->readPage = $readPage;
        $this->table = $table;
    }

    /**
     * @inheritDoc
     */
    public function execute(int $orderId, int $pageSize = 100, int $currentPage = 1): ProvenancePageInterface
    {
        $page = $this->readPage->execute('order_id', $orderId, $pageSize, $currentPage);
        if ($page->getTotalCount() === 0 && $this->table->customersOfOrders([$orderId]) === []) {
            throw new NoSuchEntityException(new Phrase((string)__('The store has no order %1, and no record of one.', $orderId)));
        }
        return $page;
    }
}
